"""Every planted defect is found and named; a sound model raises nothing."""

import copy
import importlib.util
import re

import defects
import numpy as np
import pytest
import torch
from torch import nn

import shared_data
from plica import trust
from plica.trust import Finding, Severity, TrustLevel, Verdict

SHARED = shared_data.SHARED / "load.py"


def named(verdict):
    return {finding.check for finding in verdict.findings}


def test_nothing_is_raised_on_a_sound_model():
    x, y = defects.images()
    verdict = trust.examine(defects.Sound().eval(), x, y)
    assert verdict.findings == ()
    assert verdict.belief is TrustLevel.TRUSTWORTHY
    assert str(verdict) == "trustworthy"


@pytest.mark.parametrize("defect", defects.defects())
def test_each_defect_is_found(defect):
    model, check = defects.defects()[defect]
    verdict = trust.examine(model.eval(), *defects.images())
    assert check in named(verdict)
    assert verdict.belief is not TrustLevel.TRUSTWORTHY
    assert check in verdict.checks


def test_probabilities_are_a_note_as_attacks_use_their_logarithms():
    model = defects.Changed(after=lambda z: torch.softmax(z, 1)).eval()
    verdict = trust.examine(model, *defects.images())
    assert [(finding.check, finding.weight) for finding in verdict.findings] == [("probabilities", Severity.NOTE)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x * 255, "never divided by 255"),
        (lambda x: (x - 0.5) / 0.25, "normalised already"),
        (lambda x: x / 255, "divided by 255 twice"),
        (lambda x: x.masked_fill(x > 0.9, torch.nan), "not finite"),
    ],
)
def test_pixels_that_are_none(change, said):
    x, y = defects.images()
    verdict = trust.examine(defects.Sound().eval(), change(x), y)
    assert verdict.belief is TrustLevel.NOT_BELIEVED
    assert any(said in f.sentence for f in verdict.findings if f.check == "pixels")


class Contrast(nn.Module):
    """Bright above or below; where the contrast is slight, class 2."""

    def forward(self, x):
        contrast = (x[:, :, :4] - x[:, :, 4:]).flatten(1).mean(1)
        return torch.stack([contrast, -contrast, torch.ones_like(contrast)], 1)


def test_a_usual_normalisation_comes_before_pixels_to_255():
    """Both serve: any scale of 1.7 or more does."""
    y = torch.arange(20) % 2
    halves = torch.tensor([0.8] * 4 + [0.2] * 4)[:, None].expand(8, 8)
    x = torch.stack([halves, halves.flip(0)])[y][:, None]
    (finding,) = (f for f in trust.examine(Contrast(), x, y).findings if f.check == "normalisation")
    assert "100% normalised with mean 0.5 and deviation 0.5" in finding.sentence


def test_a_model_in_train_mode_is_named_and_its_mode_restored():
    model = nn.Sequential(nn.Dropout(0.1), defects.Sound()).train()
    assert named(trust.examine(model, *defects.images())) == {"train mode"}
    assert model.training
    assert model[0].training


def test_a_point_of_another_model_that_beats_the_gradient():
    model = defects.Changed(defects.Backward.apply).eval()
    assert "transfer" not in named(trust.examine(model, *defects.images()))
    assert "transfer" in named(trust.examine(model, *defects.images(), surrogates=[defects.Sound().eval()]))


def test_labels_of_one_class_and_few_classes():
    x, y = defects.images()
    assert named(trust.examine(defects.Sound().eval(), x[y == 2], y[y == 2])) == {"labels"}
    two = defects.Changed(after=lambda z: z[:, :2]).eval()
    verdict = trust.examine(two, x[y < 2], y[y < 2])
    assert named(verdict) == {"few classes"}
    assert verdict.belief is TrustLevel.TRUSTWORTHY  # a note weighs nothing


def test_features_with_bounds_of_their_own():
    """The same model of a vector, in other units: nothing is raised, and outside the bounds something is."""
    x, y = defects.images()
    low, span = torch.linspace(-5, 5, 192), torch.linspace(0.1, 100, 192)

    class Vector(defects.Sound):
        def forward(self, x):
            return super().forward(((x - low) / span).view(-1, 3, 8, 8))

    u = low + span * x.flatten(1)
    assert trust.examine(Vector().eval(), u, y, bounds=(low, low + span)).findings == ()
    assert "pixels" in named(trust.examine(Vector().eval(), u, y, bounds=(low, low + 0.5 * span)))


def test_a_model_that_returns_a_dict_is_told_what_to_write():
    """It was told that a dict has no attribute 'detach'."""
    model = defects.Sound().eval()
    with pytest.raises(ValueError, match=r"got dict; .* such as lambda x: model\(x\)\['logits'\]"):
        trust.examine(lambda x: {"logits": model(x)}, *defects.images())


def test_the_same_again_is_the_same():
    model, (x, y) = defects.Changed(defects.shattered).eval(), defects.images()
    found = [trust.examine(model, x, y, images=16) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].findings


@pytest.mark.parametrize(
    ("model", "y", "said"),
    [
        (nn.Flatten(), torch.arange(4), "labels range"),
        (lambda x: x.flatten(1).sum(1), torch.arange(4), "the model has 2 classes"),
        (nn.Linear(3, 3), torch.arange(4), "cannot take images of shape (3, 8, 8)"),
        (lambda x: x.flatten(1) @ torch.eye(192, 4).double(), torch.arange(4), "convert also tensors that are no buf"),
        (nn.Flatten(), torch.arange(3), "got 4 and 3"),
    ],
)
def test_a_model_that_cannot_be_examined_raises_one_sentence(model, y, said):
    with pytest.raises(ValueError, match=r"\.") as refused:
        trust.examine(model, defects.images(4)[0], y * 100)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_verdict_is_kept_and_read():
    findings = [
        Finding("few classes", Severity.NOTE, "Two classes."),
        Finding("zero gradient", Severity.FATAL, "None.", 0.75),
        Finding("zero gradient", Severity.FATAL, "None.", 0.75),
    ]
    verdict = Verdict.of(findings, ["zero gradient", "few classes"])
    assert str(verdict) == "not to be believed (zero gradient)"
    assert len(verdict.findings) == 2
    assert [Finding.read(record) for record in verdict.record()["findings"]] == list(verdict.findings)
    with pytest.raises(ValueError, match="is not a valid finding"):
        Finding.read({"check": "x", "weight": "HEAVY", "sentence": ""})


@pytest.fixture(scope="module")
def shared():
    if not SHARED.exists():
        pytest.skip(f"needs trained networks and images, looked for at {SHARED}")
    spec = importlib.util.spec_from_file_location("load", SHARED)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sample(shared, name):
    x, y = shared.mnist() if shared.NETS[name][2][0] == 1 else shared.cifar10("test", 200, seed=0)
    return torch.from_numpy(x.astype(np.float32) / 255), torch.from_numpy(y)


NETWORKS = (
    "resnet_2b", "cifar_wide_kw", "cifar10_small", "mnist-net_256x2", "mnist_relu_9_200", "ffnnSIGMOID__Point_6x200",
    "Convnet_avgpool", "Convnet_maxpool",
)  # fmt: skip
OF_OTHER_SIZES = ("cifar_base_kw", "cifar10_medium", "cifar10_large", "mnist-net_256x4", "mnist-net_256x6")


@pytest.mark.parametrize("name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in OF_OTHER_SIZES)])
def test_no_false_alarm_on_networks_in_use(shared, name):
    verdict = trust.examine(shared.load_net(name), *sample(shared, name))
    assert verdict.findings == ()


@pytest.mark.parametrize("name", ["resnet_2b", "cifar_wide_kw"])
def test_a_network_in_use_whose_normalisation_was_forgotten(shared, name):
    verdict = trust.examine(shared.load_net(name, pixels=False), *sample(shared, name))
    assert "normalisation" in named(verdict)
    sentence = next(finding.sentence for finding in verdict.findings if finding.check == "normalisation")
    assert name != "resnet_2b" or "as in --model net.py:make@cifar10" in sentence
    assert verdict.belief is TrustLevel.NOT_BELIEVED


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_named(dtype):
    x, y = defects.images()
    model = copy.deepcopy(defects.Sound()).eval().to(dtype)
    (finding,) = trust.examine(model, x.to(dtype), y).findings
    assert (finding.check, finding.weight, finding.share) == ("rounding", Severity.NOTE, 0)
    assert str(dtype).removeprefix("torch.") in finding.sentence


def rounding(model):
    return next(f for f in trust.examine(model.eval(), *defects.images()).findings if f.check == "rounding")


def test_equal_largest_logits_are_counted():
    def second(z, ties):
        return torch.cat([z, torch.where(ties(z), z.amax(1), z.amin(1))[:, None]], 1)

    x, _ = defects.images()
    for share, weight in ((3.0, Severity.RESERVATION), (0.5, Severity.NOTE)):
        level = float(defects.Sound()(x).amax(1).quantile(share / 100))
        finding = rounding(defects.Changed(after=lambda z, level=level: second(z, lambda z: z.amax(1) <= level)))
        assert finding.weight == weight
        assert finding.share == pytest.approx(share / 100, abs=0.006)
        assert f"class of {round(finding.share * len(x))} of {len(x)} images" in finding.sentence


class Alone(nn.Module):
    """In bfloat16, the two largest logits nearly equal, and exchanged where an image is alone."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = defects.Sound(), change

    def forward(self, x):
        z = self.net(x)
        top = z.amax(1, keepdim=True)
        z = torch.cat([z, top - self.change + (2 * self.change if len(x) == 1 else 0)], 1)
        return z.bfloat16().float()


def test_a_class_that_the_batch_decides_by_rounding_is_counted():
    """Of the 32 images that are run alone; a larger change is a dependence on the batch, another finding."""
    finding = rounding(Alone(0.06))
    assert "bfloat16" in finding.sentence
    changed = re.search(r"(\d+) whose class changes", finding.sentence)
    assert changed is not None
    assert 20 < int(changed[1]) <= 32
    assert rounding(Alone(20.0)).share == 0


def test_a_model_that_answers_at_random_has_no_other_fault():
    """Derivatives are taken with its draws fixed; before, their differences were those of two draws."""
    x, y = defects.images()
    verdict = trust.examine(defects.Changed(lambda x: x + 0.05 * torch.randn_like(x)).eval(), x, y)
    assert named(verdict) == {"random outputs"}
    assert "--draws 16" in verdict.findings[0].sentence
