"""Every form of a model is really loaded where its package is here; every failure is one sentence."""

import dataclasses
import importlib
import json
import pickle
import re
import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import plica
import shared_data
from plica.models import load_model, prepare_inputs, registry
from plica.models.adapt import LoadedModel, logits_of, split_normalisation
from plica.models.programs import load_torchscript
from plica.utils.optional import stand_ins

SHARED = shared_data.SHARED
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def pictures(count=4, side=8):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def differentiable(model, x):
    z = x.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(model(z)[:, 0].sum(), z)
    return bool((grad.flatten(1) != 0).any(1).all())


def refusal(spec, **more):
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        load_model(spec, **more)
    said = str(refused.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


class Vault:
    """Unpickling one runs code: it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (Path(self.file),)


# ---------------------------------------------------------------------------------- normalisation, logits
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("net.py:make", ("net.py:make", None, False)),
        ("net.py:make@none", ("net.py:make", None, True)),
        ("net.py:make@0.5/0.25", ("net.py:make", ((0.5,), (0.25,)), True)),
        ("hf:a/b@v1.2", ("hf:a/b@v1.2", None, False)),
        ("x@1,2,3/0.5", ("x", ((1.0, 2.0, 3.0), (0.5,)), True)),
    ],
)
def test_a_normalisation_behind_the_model(spec, expected):
    assert split_normalisation(spec) == expected


@pytest.mark.parametrize("text", ["0.5", "0.5/0", "1,2/1,2,3", "1/-1", "0.5/nan", "1e999/1"])
def test_a_normalisation_that_is_none(text):
    if text == "0.5/nan":
        assert split_normalisation(f"m@{text}")[0] == f"m@{text}"  # letters: an @ of the model's own
    else:
        with pytest.raises(ValueError, match="write mean/deviation"):
            split_normalisation(f"m@{text}")


@dataclasses.dataclass
class Record:
    loss: None
    logits: torch.Tensor


def test_logits_are_taken_out_of_what_holds_them():
    z = torch.rand(2, 5)
    for held in (
        z,
        (z, None),
        [z],
        {"logits": z, "loss": 1},
        OrderedDict(out=z, aux=None),
        {"any": z},
        Record(None, z),
        {"logits": (z,)},
    ):
        assert logits_of(held) is z
    odd = {"a": z, "b": z}
    assert logits_of(odd) is odd


TUPLES = """
from torch import nn

class Two(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :4], None

def make():
    return Two()
"""


def test_a_factory_whose_network_returns_a_record(tmp_path):
    (tmp_path / "tuples.py").write_text(TUPLES)
    x = pictures()
    assert torch.equal(load_model(f"{tmp_path}/tuples.py:make")(x), x.flatten(1)[:, :4])
    half = load_model(f"{tmp_path}/tuples.py:make@0.5/0.25")
    assert torch.equal(half(x), ((x - 0.5) / 0.25).flatten(1)[:, :4])


# --------------------------------------------------------------------------------------------------- zoos
def test_torchvision(tmp_path):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    plain = models.get_model("resnet18", weights=None).eval()
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    x = pictures(2, 64)
    loaded = load_model("torchvision:resnet18", tmp_path / "w.safetensors")
    assert torch.allclose(loaded(x), plain((x - MEAN) / STD), atol=1e-5)
    bare = load_model("torchvision:resnet18@none", tmp_path / "w.safetensors")
    assert torch.allclose(bare(x), plain(x), atol=1e-5)
    assert differentiable(loaded, x)
    assert "the nearest is resnet18" in refusal("torchvision:resnet-18")


def test_torchvision_without_a_network(monkeypatch):
    models = pytest.importorskip("torchvision.models")

    def unreachable(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(models, "get_model", unreachable)
    assert "check the name, and that the network is there" in refusal("torchvision:resnet18")


def test_timm(tmp_path):
    timm = pytest.importorskip("timm")
    plain = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    config = plain.pretrained_cfg
    x, mean, std = pictures(2, 64), *(torch.tensor(config[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    loaded = load_model("timm:mobilenetv3_small_050", tmp_path / "w.safetensors")
    assert torch.allclose(loaded(x), plain((x - mean) / std), atol=1e-4)
    assert "timm has no model" in refusal("timm:resnetty18x")


@pytest.fixture
def hf(tmp_path):
    package = pytest.importorskip("transformers")
    package.utils.logging.disable_progress_bar()
    config = package.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_labels=5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = package.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "vit")
    return model, tmp_path / "vit"


def test_hugging_face_folders(hf):
    plain, folder = hf
    x = pictures()
    with pytest.warns(UserWarning, match="does not say how it normalises"):
        loaded = load_model(f"hf:{folder}")
    assert torch.allclose(loaded(x), plain(x).logits, atol=1e-6)
    config = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    loaded = load_model(f"hf:{folder}")
    assert torch.allclose(loaded(x), plain((x - 0.5) / 0.25).logits, atol=1e-5)
    assert differentiable(loaded, x)


def test_hugging_face_code_and_pickles_are_not_run(hf, tmp_path):
    plain, folder = hf
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "odd",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForImageClassification": "evil.Evil"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    assert "brings Python code of its own, which is run only with --trust" in refusal(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()
    plain.config.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"x": Vault(tmp_path / "ran")}, folder / "pytorch_model.bin")
    assert "could not be loaded" in refusal(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()
    assert "no folder" in refusal("hf:./none")


@pytest.fixture
def robustbench(tmp_path, monkeypatch):
    """A network of its zoo, small as they go, and the file in which it keeps the weights."""
    with stand_ins("pkg_resources", "autoattack", "autoattack.state"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zoo = pytest.importorskip("robustbench.model_zoo", reason="robustbench, or a package it needs, is missing")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "models" / "cifar10" / "Linf" / "Wong2020Fast.pt"
    file.parent.mkdir(parents=True)
    kinds = {d.value: {t.value: nets for t, nets in of.items()} for d, of in zoo.model_dicts.items()}
    torch.manual_seed(0)
    return kinds["cifar10"]["Linf"]["Wong2020Fast"]["model"]().eval(), file


@pytest.mark.slow
@pytest.mark.extra
def test_robustbench_whose_weights_are_here(robustbench, tmp_path):
    plain, file = robustbench
    x = pictures(2, 32)
    torch.save({"state_dict": {f"module.{name}": value for name, value in plain.state_dict().items()}}, file)
    for spec in ("robustbench:Wong2020Fast", "robustbench:cifar10/Linf/Wong2020Fast"):
        loaded = load_model(spec)
        assert torch.equal(loaded(x), plain(x))
        assert differentiable(loaded, x)
    file.unlink()
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    assert torch.equal(load_model("robustbench:Wong2020Fast", tmp_path / "w.safetensors")(x), plain(x))
    left = [sys.modules[name] for name in ("autoattack", "pkg_resources") if name in sys.modules]
    assert all(module.__spec__ for module in left)  # no stand-in


@pytest.mark.slow
@pytest.mark.extra
def test_robustbench_without_weights_names_or_trust(robustbench, monkeypatch, tmp_path):
    _, file = robustbench

    def unreachable(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("robustbench.utils.download_gdrive_new", unreachable)
    assert "check the name, and that the network is there" in refusal("robustbench:Wong2020Fast")
    monkeypatch.setattr("robustbench.utils.download_gdrive_new", lambda *_: None)  # ends without a file
    assert "check the name, and that the network is there" in refusal("robustbench:Wong2020Fast")
    assert "the nearest is Wong2020Fast" in refusal("robustbench:Wong2020Fest")
    assert "not cifar10/L7" in refusal("robustbench:cifar10/L7/Standard")
    torch.save({"state_dict": Vault(tmp_path / "ran")}, file)
    assert "only with --trust" in refusal("robustbench:Wong2020Fast")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("spec", "package", "said"),
    [
        ("torchvision:resnet18", "torchvision.models", 'pip install "plica[torchvision]"'),
        ("timm:resnet18", "timm", 'pip install "plica[timm]"'),
        ("hf:google/vit", "transformers", 'pip install "plica[hf]"'),
        ("robustbench:Carmon2019Unlabeled", "robustbench.utils", "pip install robustbench"),
    ],
)
def test_a_package_that_is_not_there(monkeypatch, spec, package, said):
    monkeypatch.setitem(sys.modules, package, None)
    assert said in refusal(spec)


def test_a_form_of_the_users(monkeypatch):
    """A prefix and a suffix; the normalisation of its maker holds unless another is stated."""
    plain, x = net(), pictures()
    form = registry.ModelForm("mine:NAME", lambda name, pretrained, trust: LoadedModel(plain, ((0.5,), (0.25,))))
    for key, spec in (("mine:", "mine:anything"), (".mine", "net.mine")):
        monkeypatch.setitem(registry.FORMS, key, form)
        assert torch.equal(load_model(spec)(x), plain((x - 0.5) / 0.25))
        assert torch.equal(load_model(f"{spec}@none")(x), plain(x))
    assert "net.onnx, net.pt2 (torch.export), net.ts or net.pt (TorchScript), mine:NAME." in refusal("no-form")


# -------------------------------------------------------------------------------------------------- files
def onnx_net(name):
    pytest.importorskip("onnx2torch")
    if not SHARED.exists():
        pytest.skip(f"needs trained networks, looked for at {SHARED}")
    sys.path.insert(0, str(SHARED))
    try:
        load = importlib.import_module("load")
    finally:
        sys.path.remove(str(SHARED))
    return load.load_net(name, pixels=False), load.NETS[name]


@pytest.mark.parametrize("name", ["resnet_2b", "cifar_base_kw", "cifar_wide_kw", "cifar10_small", "mnist-net_256x2"])
def test_onnx_networks_of_a_competition(name):
    """Batches, layouts (1, 784, 1) and (h, w, c), gradients; the normalisation is that of the networks' makers."""
    plain, (_, _, shape, stated) = onnx_net(name)
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    suffix = "" if stated is None else "@" + "/".join(",".join(map(str, part)) for part in stated)
    loaded = load_model(f"{SHARED}/models/{name}.onnx{suffix}")
    if stated is not None:
        mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in stated)
        expected = plain((x - mean) / std)
    else:
        expected = plain(x)
    assert torch.allclose(loaded(x), expected, atol=1e-5)
    assert differentiable(loaded, x) or name.startswith("mnist")  # whose first output is dead on noise
    prepare_inputs(loaded, x, torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize("name", ["cifar10_small", "mnist-net_256x2"])
def test_onnx_networks_have_lower_bounds(name):
    """Shapes are numbers of the file, not tensors that are read at every call."""
    plain, (_, _, shape, _) = onnx_net(name)
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    loaded, question = load_model(f"{SHARED}/models/{name}.onnx"), plica.MinRadius(plica.Lp("inf"))
    y = plain(x).argmax(1)
    found = [plica.certify(net.eval(), x, y, question, nodes=1).radius for net in (loaded, plain)]
    torch.testing.assert_close(*found, rtol=0.02, atol=0)  # of the precision of the first bounds
    assert found[0] > 0


def graph(nodes, shape, constants):
    """An ONNX model of the given nodes from "x" to "y"."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnx2torch")
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, s) for name, s in (("x", shape), ("y", None))]
    initial = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in constants.items()]
    made = [helper.make_node(kind, inputs, outputs) for kind, inputs, outputs in nodes]
    model = helper.make_graph(made, "g", ends[:1], ends[1:], initial)
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_onnx_that_was_written_for_one_image(tmp_path):
    """Its reshape to (1, 12) mixes a batch: it is run row by row, which is said."""
    onnx = pytest.importorskip("onnx")
    w = torch.rand(12, 4)
    model = graph(
        [("Reshape", ["x", "shape"], ["flat"]), ("MatMul", ["flat", "w"], ["y"])],
        [1, 3, 2, 2], dict(shape=torch.tensor([1, 12]), w=w),
    )  # fmt: skip
    onnx.save(model, tmp_path / "one.onnx")
    x = torch.rand(3, 3, 2, 2)
    with pytest.warns(UserWarning, match="takes one image at a time"):
        loaded = load_model(str(tmp_path / "one.onnx"))
    assert torch.allclose(loaded(x), x.flatten(1) @ w)
    assert differentiable(loaded, x)


def test_onnx_reads_no_other_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = graph([("MatMul", ["x", "w"], ["y"])], [1, 3], dict(w=torch.rand(3, 4)))
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    (tmp_path / "out.onnx").write_bytes(model.SerializeToString())
    said = refusal(str(tmp_path / "out.onnx"))
    assert "in other files" in said or "cannot be read as ONNX" in said
    (tmp_path / "broken.onnx").write_bytes(b"\xff" * 100)
    assert "cannot be read as ONNX" in refusal(str(tmp_path / "broken.onnx"))


def test_exported_programs(tmp_path):
    plain, x = net(), pictures()
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, shapes in (("any", ({0: batch},)), ("one", None), ("four", None)):
            example = x[:1] if name == "one" else x
            torch.export.save(torch.export.export(plain, (example,), dynamic_shapes=shapes), tmp_path / f"{name}.pt2")
    assert "give --trust" in refusal(str(tmp_path / "any.pt2"))
    loaded = load_model(str(tmp_path / "any.pt2@0.5/0.25"), trust=True)
    assert torch.allclose(loaded(x[:3]), plain((x[:3] - 0.5) / 0.25), atol=1e-5)
    assert differentiable(loaded, x)
    assert "takes 4 images at a time" in refusal(str(tmp_path / "four.pt2"), trust=True)
    with pytest.warns(UserWarning, match="one image at a time"):
        one = load_model(str(tmp_path / "one.pt2"), trust=True)
    assert torch.allclose(one(x), plain(x), atol=1e-5)


@pytest.mark.parametrize("suffix", [".ts", ".pt"])
def test_torchscript(tmp_path, suffix):
    plain, x = net(), pictures()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.trace(plain, x), tmp_path / f"net{suffix}")
    assert "give --trust" in refusal(str(tmp_path / f"net{suffix}"))
    loaded = load_model(str(tmp_path / f"net{suffix}"), trust=True)
    assert torch.allclose(loaded(x), plain(x), atol=1e-6)
    assert differentiable(loaded, x)


def test_pickled_networks_are_refused_with_and_without_trust(tmp_path):
    torch.save(Vault(tmp_path / "ran"), tmp_path / "model.pt")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Vault(tmp_path / "ran")))
    torch.save(net().state_dict(), tmp_path / "weights.pt")
    for trust in (False, True):
        assert "weights or pickled Python objects" in refusal(str(tmp_path / "model.pt"), trust=trust)
        assert "pickled Python objects, which are refused" in refusal(str(tmp_path / "old.pth"), trust=trust)
        assert "give the state dict with --weights" in refusal(str(tmp_path / "weights.pt"), trust=trust)
    assert not (tmp_path / "ran").exists()
    assert "no model file" in refusal(str(tmp_path / "none.pt"))
    assert "leave --weights out" in refusal(str(tmp_path / "model.pt"), weights="w.pt")
    with pytest.raises(ValueError, match=re.escape("weights or pickled")):
        load_torchscript(str(tmp_path / "model.pt"), True, trust=True)


def test_a_model_for_single_images_is_run_so():
    class Single(nn.Module):
        def forward(self, x):
            return x.view(1, 12)[:, :4]

    x = torch.rand(3, 3, 2, 2)
    with pytest.warns(UserWarning, match="with 1 at a time"):
        model, _, _ = prepare_inputs(Single(), x, torch.zeros(3, dtype=torch.long))
    assert torch.equal(model(x), x.flatten(1)[:, :4])


def test_the_first_image_may_be_one_that_the_model_refuses():
    def picky(x):
        if bool((x[:, 0, 0, 0] == 0).any()):
            raise RuntimeError("a black corner")
        return x.flatten(1)[:, :4]

    x, y = torch.rand(3, 3, 2, 2) + 0.1, torch.zeros(3, dtype=torch.long)
    x[0] = 0
    assert len(prepare_inputs(picky, x, y)[1]) == 3
    with pytest.raises(ValueError, match=r"images of shape \(3, 2, 2\): RuntimeError: a black corner"):
        prepare_inputs(picky, x[:1], y[:1])
