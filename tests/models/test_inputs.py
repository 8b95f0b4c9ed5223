"""What a command line can name is read, or refused in one sentence that says what was seen."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import plica
from plica.data import load_data
from plica.models import load_model, prepare_inputs
from plica.utils.weights import read_weights

X = np.linspace(0, 1, 6 * 64, dtype=np.float32).reshape(6, 1, 8, 8)
Y = np.arange(6) % 4

NET = """
import torch
from torch import nn

class Scale(nn.Module):
    def forward(self, x):
        return 2 * x

def make():
    torch.manual_seed(0)
    return nn.Sequential(Scale(), nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 4))

module = make()

def plain():
    return lambda x: x.flatten(1)[:, :4]

def fails():
    raise RuntimeError("no\\nGPU here.")

def number():
    return 3

def meta():
    return make().to("meta")

class Record(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make()

    def forward(self, x):
        return {"logits": self.net(x)}

def script():
    return torch.jit.script(Record())
"""


@pytest.fixture
def net(tmp_path):
    (tmp_path / "builder.py").write_text(NET)
    return f"{tmp_path / 'builder.py'}:make"


def saved(folder, **arrays):
    np.savez(folder / "d.npz", **arrays)
    return folder / "d.npz"


def test_uint8_pixels_are_divided_by_255(tmp_path):
    x, y = load_data(saved(tmp_path, x=np.full((2, 3), 51, np.uint8), y=np.array([1, 0], np.uint8)))
    assert x.dtype == torch.float32
    assert x.tolist() == (torch.full((2, 3), 51.0) / 255).tolist()
    assert y.dtype == torch.int64


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_stay_as_they_are(tmp_path, dtype):
    x, y = load_data(saved(tmp_path, x=X.astype(dtype), y=Y), n=4)
    assert x.dtype == torch.float32
    assert x.shape == (4, 1, 8, 8)
    assert np.array_equal(x.numpy(), X.astype(dtype)[:4].astype(np.float32))
    assert y.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (dict(x=X), "no array y (its arrays: 'x')"),
        (dict(images=X, labels=Y), "no array x and no array y (its arrays: 'images', 'labels')"),
        (dict(x=X * 2 - 1, y=Y), "values from -1 to 1; pixels must lie in [0, 1]"),
        (dict(x=X * np.float32(255), y=Y), "values from 0 to 255"),
        (dict(x=np.where(X > 0.5, np.nan, X), y=Y), "not finite"),
        (dict(x=(X * 255).astype(np.int64), y=Y), "int64; save uint8"),
        (dict(x=X, y=Y[:3]), "shape (3,); 6 images need one label each"),
        (
            dict(x=X, y=Y[:, None]),
            "shape (6, 1); 6 images need one label each, (6,), or name the goal that y belongs to.",
        ),
        (dict(x=X, y=Y.astype(float)), "holds floats; labels must be integers"),
        (dict(x=X, y=Y - 1), "the label -1"),
        (dict(x=X[:0], y=Y[:0]), "at least one image"),
        (dict(x=X[:, 0, 0, 0], y=Y), "shape (6,)"),
        (dict(x=np.array([None] * 6, object), y=Y), "Python objects"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path, arrays, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        load_data(saved(tmp_path, **arrays))


def test_unusable_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.npz"):
        load_data(tmp_path / "none.npz")
    whole = saved(tmp_path, x=X, y=Y).read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[:500])
    (tmp_path / "empty.npz").touch()
    (tmp_path / "text.npz").write_text("x,y")
    np.save(tmp_path / "one.npy", X)
    for name in ("half.npz", "empty.npz", "text.npz", "one.npy"):
        with pytest.raises(ValueError, match=r"numpy\.savez"):
            load_data(tmp_path / name)


@pytest.mark.parametrize("n", [0, -1, 7])
def test_as_many_images_as_there_are(tmp_path, n):
    with pytest.raises(ValueError, match="between 1 and 6"):
        load_data(saved(tmp_path, x=X, y=Y), n=n)


def test_a_factory_in_a_file_and_in_a_package(net, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "inner.py").write_text("from builder import make as build")
    x = torch.from_numpy(X)
    here, there = load_model(net), load_model("package.inner:build")
    assert isinstance(here, nn.Module)
    assert not here.training
    assert torch.equal(here(x), there(x))


def test_a_module_or_any_callable_may_stand_for_the_factory(net):
    file = net.removesuffix("make")
    assert isinstance(load_model(file + "module"), nn.Module)
    assert load_model(file + "plain")(torch.from_numpy(X)).shape == (6, 4)
    with pytest.raises(ValueError, match=r"need a torch\.nn\.Module"):
        load_model(file + "plain", weights="w.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_replace_those_of_the_factory(net, tmp_path, suffix):
    state = {name: torch.full_like(value, 2) for name, value in load_model(net).state_dict().items()}
    file = tmp_path / f"w{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    filled = load_model(net, weights=file).state_dict()
    assert all(torch.equal(filled[name], value) for name, value in state.items())


@pytest.mark.parametrize("wrap", ["state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.module.", "_orig_mod."])
def test_checkpoints_are_unwrapped_and_that_is_said(net, tmp_path, wrap, prefix):
    state = {name: torch.full_like(value, 2) for name, value in load_model(net).state_dict().items()}
    inner = {prefix + name: value for name, value in state.items()} | ({"mean": torch.zeros(1)} if prefix else {})
    torch.save({"epoch": 3, wrap: inner, "optimizer": {"lr": 0.1}}, tmp_path / "c.pt")
    with pytest.warns(UserWarning, match="is a checkpoint|is taken off") as caught:
        filled = load_model(net, weights=tmp_path / "c.pt").state_dict()
    assert all(torch.equal(filled[name], value) for name, value in state.items())
    said = " ".join(str(warning.message) for warning in caught)
    assert f"its {wrap!r} is taken" in said
    assert not prefix or f"the prefix {prefix!r} is taken off, and 1 tensors" in said


def test_weights_that_do_not_fit_name_the_first_keys(net, tmp_path):
    save_file({"3.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(1)}, tmp_path / "w.safetensors")
    said = r"lacks 2\.weight, 2\.bias, 2\.running_mean and 3 more .* unknown fc\.bias .* 3\.weight \(2, 2\) instead of"
    with pytest.raises(ValueError, match=said):
        load_model(net, weights=tmp_path / "w.safetensors")


def test_weights_are_read_without_running_code(net, tmp_path):
    torch.save(load_model(net), tmp_path / "pickled.pt")
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "checkpoint.pt")
    (tmp_path / "broken.pt").write_text("x")
    (tmp_path / "broken.safetensors").write_text("x")
    for name, said in [
        ("none.pt", "no weights file"),
        ("pickled.pt", "Python objects, which are refused"),
        ("checkpoint.pt", "the keys epoch, state_dict, not a state dict"),
        ("broken.pt", "broken"),
        ("broken.safetensors", "cannot be read as weights"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("builder", "not of a known form"),
        ("builder.py", "as in builder.py:make"),
        ("net.safetensors", "holds weights; give it as the weights of a model"),
        (":make", "not of the form"),
        ("none.py:make", "no model file"),
        ("builder.py:other", "has no 'other'; it has Scale, make, module and 6 more"),
        ("builder.py:fails", "failed: RuntimeError: no GPU here."),
        ("builder.py:number", "type int, which cannot be called"),
        ("builder.py:meta", "on the device meta (2.weight, 2.bias, 2.running_mean and 4 more); make it on cpu"),
        ("builder.py:make@cifar11", "no normalisation 'cifar11'; did you mean 'cifar10'? write mean/deviation"),
        ("builder.py:make@nothing", "no normalisation 'nothing'; write mean/deviation"),
        ("broken.py:make", "SyntaxError"),
        ("no.such.module:make", "No module named 'no'"),
        ("json:dumps", "missing 1 required positional argument"),
    ],
)
def test_models_that_cannot_be_made(net, tmp_path, monkeypatch, spec, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("def make(:")
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        load_model(spec)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_factory_of_torchscript(net):
    x = torch.from_numpy(X)
    torch.testing.assert_close(load_model(net.replace(":make", ":script"))(x), load_model(net)(x))


def test_a_device_that_is_not_there(net):
    with pytest.raises(ValueError, match="this machine has cpu"):
        load_model(net, device="gpu7")


def test_images_follow_the_model_and_must_fit_it(net):
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    model = load_model(net)
    assert prepare_inputs(model.double(), x, y)[1].dtype == torch.float64
    with pytest.raises(ValueError, match=r"images of shape \(1, 4, 8\): RuntimeError"):
        prepare_inputs(model.float(), x[:, :, :4], y)


def test_images_with_the_channels_last_get_a_hint():
    x, y = torch.rand(2, 8, 8, 3), torch.zeros(2, dtype=torch.long)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    hint = r"these look like \(height, width, channels\): write x\.permute\(0, 3, 1, 2\)"
    with pytest.raises(ValueError, match=hint):
        prepare_inputs(model, x, y)
    with pytest.raises(RuntimeError, match=hint):
        plica.attack(model, x, y, plica.MinRadius(plica.Lp(2)))
    with pytest.raises(ValueError, match=r"images of shape \(1, 8, 3\): RuntimeError.*\.$") as other:
        prepare_inputs(model, x[:, :1], y)
    assert "permute" not in str(other.value)


def test_a_model_of_two_precisions_is_named_as_such():
    """A tensor that is no buffer stays in float32 in model.half()."""

    class Shifted(nn.Linear):
        shift = torch.zeros(3)

        def forward(self, x):
            return super().forward(x - self.shift)

    with pytest.raises(ValueError, match=r"in torch\.float16: RuntimeError.*convert also tensors that are no buffers"):
        prepare_inputs(Shifted(3, 4).half(), torch.rand(2, 3), torch.zeros(2, dtype=torch.long))
