"""Runs in MLflow, which stands in here as a few functions that refuse what MLflow refuses."""

import posixpath
import re
import sys
from contextlib import nullcontext
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from plica import runs
from plica.runs.write import Store
from plica.track import log_run, log_training, metrics
from plica.utils.files import write_json


class FakeMlflow(ModuleType):
    """Notes what is logged; names are checked as MLflow checks them."""

    def __init__(self, start=None):
        super().__init__("mlflow")
        self.logged, self.start = {}, start

    def active_run(self):
        return None

    def get_tracking_uri(self):
        return "sqlite:///mlflow.db"

    def start_run(self, run_name):
        if self.start is not None:
            raise self.start
        return nullcontext()

    def log_params(self, values):
        self._log(values)

    def log_metrics(self, values, step=None):
        self._log(values)

    def _log(self, values):
        for name in values:
            assert re.fullmatch(r"[/\w.\- ]+", name), name
            assert posixpath.normpath(name) == name, name
            assert not name.startswith(("/", "..")), name
        self.logged |= values


@pytest.fixture(params=["/nets/net.py:make", "./net.py:make", "../a//net.py:make", "net.py:make@half"])
def run(tmp_path, request):
    """One task on two images, of a model that is named by its path."""
    task = runs.Task("task", request.param, "min-radius l2", "min-radius", "l2", None, None, "auto")
    columns = {"id": [0, 1], "label": [0, 1], "prediction": [1, 0], "success": [True] * 2, "distance": [0.25, 0.5]}
    samples = pa.table(columns | task.constant_columns(2))
    Store(tmp_path / "run").write(task.name, 0, samples, torch.tensor([0, 1]), torch.zeros(2, 3))
    write_json(tmp_path / "run" / "manifest.json", {"format": 1, "plan": {"models": [{"model": request.param}]}})
    return runs.load(tmp_path / "run")


def test_a_model_that_is_named_by_its_path_is_logged(run, monkeypatch):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    log_run(run, report=False)
    assert sorted(value for name, value in fake.logged.items() if name.endswith("radius")) == [0.25]
    assert set(metrics(run)) < set(fake.logged)


def test_a_store_that_cannot_be_had_is_a_sentence_that_says_which_can(run, monkeypatch):
    fake = FakeMlflow(start=ModuleNotFoundError("No module named 'sqlalchemy'"))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    with pytest.raises(ValueError, match=r"its store sqlite:///mlflow.db .*sqlalchemy.*; set MLFLOW_TRACKING_URI to"):
        log_run(run, report=False)
    assert fake.logged == {}


def test_epochs_of_a_training_are_logged_by_step(tmp_path, monkeypatch):
    mlflow = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    rows = [{"epoch": 1, "step": 5, "loss": 2.0, "held_out_radius_l2": 0.5, "alarm": False, "radius_50": float("nan")}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    log_training(tmp_path)
    assert mlflow.logged == {"loss": 2.0, "held_out_radius_l2": 0.5, "alarm": 0.0}
    with pytest.raises(FileNotFoundError, match="directory of plica train"):
        log_training(tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_epochs_of_a_training_in_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is of the extra 'track'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # no server is needed for a test
    mlflow.set_tracking_uri((tmp_path / "tracked").as_uri())
    rows = [
        {"epoch": n, "step": 5 * n, "loss": 3.0 - n, "share_gained": 0.9, "radius_50": float("nan"), "alarm": n == 2}
        for n in (1, 2)
    ]
    (tmp_path / "robust").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "robust" / "log.parquet")
    log_training(tmp_path / "robust")
    client = mlflow.MlflowClient()
    (logged,) = client.search_runs(["0"])
    assert logged.info.run_name == "robust"
    assert logged.data.metrics == {"loss": 1.0, "share_gained": 0.9, "alarm": 1.0}
    history = client.get_metric_history(logged.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(5, 2.0), (10, 1.0)]
