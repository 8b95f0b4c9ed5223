"""A cluster of three simulated nodes, one of which is killed in mid-run, gives the table that one process gives."""

import importlib
import os
import signal
import sys
import threading
import time

import pytest

import plica
from evaluation.compare import assert_same
from plica import runs
from plica.evaluation import executors
from plica.evaluation.executors import ray

PLAN = {
    "models": ["net.py:make", "net.py:other"],
    "data": "d.npz",
    "questions": [{"ask": "min-radius", "metric": "l2"}, {"ask": "max-loss", "metric": "linf", "radius": "8/255"}],
    "methods": ["radius", "pwcf"],
    "gradients": 40,
    "chunk": 2,
    "threads": 1,
}


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'pip install "plica\[ray\]"'):
        ray._ray()
    with pytest.raises(ValueError, match="no engine 'dask'; choose from local, ray"):
        executors.find("dask")


class Starts:
    """A stand-in for Ray, which replaces the handler of SIGTERM as Ray does."""

    def is_initialized(self):
        return False

    def init(self, **_):
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))


def test_the_command_still_answers_to_sigterm_when_ray_has_started(monkeypatch):
    monkeypatch.setattr("plica.evaluation.executors.ray.require", lambda *_: Starts())
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ray._ray()
        assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, former)


@pytest.fixture
def cluster(monkeypatch):
    """A head that does no work and three nodes with one CPU each."""
    installed = pytest.importorskip("ray", reason="the extra ray is not installed")
    Cluster = importlib.import_module("ray.cluster_utils").Cluster

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    installed.init(address=cluster.address, log_to_driver=False)
    yield cluster, nodes
    installed.shutdown()
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")  # of ray, about itself
def test_a_node_killed_in_mid_run_changes_nothing(folder, cluster):
    nodes = cluster[1]
    parts = lambda: len(list((folder / "run").glob("parts/*/*.parquet")))  # noqa: E731
    seen = []

    def kill():
        while parts() < 8:
            time.sleep(0.01)
        cluster[0].remove_node(nodes[1], allow_graceful=False)
        seen.append(parts())

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    run = plica.evaluate(PLAN, "run", engine="ray", workers=3)
    killer.join()
    assert 8 <= seen[0] < 80  # of 10 chunks, 2 models, 2 questions, 2 methods
    assert_same(plica.evaluate(PLAN, "local"), run)
    assert runs.load("run").notes == []
