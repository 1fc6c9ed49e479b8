# SPDX-License-Identifier: Apache-2.0
"""WinogradConv2d is nn.Conv2d but for its speed; accelerate puts it where it pays."""

from __future__ import annotations

import copy
import io
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from thinmaps import _core  # noqa: E402
from thinmaps.errors import BadArgument  # noqa: E402
from thinmaps.winograd import WinogradConv2d, accelerate, choice, module  # noqa: E402

needs_rates = pytest.mark.skipif(
    choice.rates_here() is None, reason="no rates were measured for this instruction set"
)


def convolution(inputs: int = 64, outputs: int = 64, **options: object) -> nn.Conv2d:
    torch.manual_seed(inputs + outputs)
    return nn.Conv2d(inputs, outputs, 3, **{"padding": 1, **options}).eval()


def picture(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5))


def assert_close(y: Tensor, expected: Tensor) -> None:
    root_mean_square = expected.double().square().mean().sqrt()
    assert y.shape == expected.shape
    assert (y.double() - expected.double()).abs().max() <= 5e-5 * root_mean_square


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every native convolution."""
    seen: list[str] = []
    native = _core.winograd_convolve

    def counted(*arguments: object) -> None:
        seen.append("native")
        native(*arguments)

    monkeypatch.setattr(module._core, "winograd_convolve", counted)
    return seen


@needs_rates
@pytest.mark.parametrize("padding", [0, 1, (2, 0), "same", "valid"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_answers_as_the_convolution_it_was_made_from(
    padding: object, layout: torch.memory_format, calls: list[str]
) -> None:
    plain = convolution(padding=padding)
    x = picture(2, 64, 22, 19).to(memory_format=layout)
    with torch.no_grad():
        y = WinogradConv2d.from_conv(plain)(x)
        assert_close(y, plain.double()(x.double()))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert calls == ["native"]


@needs_rates
def test_inputs_that_are_slices_or_expanded_are_read_right(calls: list[str]) -> None:
    plain = convolution()
    fast = WinogradConv2d.from_conv(plain)
    x = picture(4, 128, 20, 40)
    with torch.inference_mode():
        for part in (x[1:3, ::2, :, ::2], x[:1, :64].expand(3, -1, -1, -1), x[:, 64:].mT):
            assert_close(fast(part), plain(part))
    assert len(calls) == 3


@needs_rates
def test_it_loads_what_the_plain_convolution_saved_and_packs_it(calls: list[str]) -> None:
    plain, x = convolution(bias=False), picture(1, 64, 20, 20)
    fast = WinogradConv2d(64, 64, padding=1, bias=False).eval()
    with torch.no_grad():
        fast(x)
        fast.load_state_dict(plain.state_dict())
        assert_close(fast(x), plain(x))
        fast.weight.mul_(2)
        assert_close(fast(x), 2 * plain(x))
    assert fast.state_dict().keys() == plain.state_dict().keys()
    assert len(calls) == 3


@needs_rates
def test_copies_and_pickles_answer_alike(calls: list[str]) -> None:
    fast, x = WinogradConv2d.from_conv(convolution(), relu=True), picture(1, 64, 20, 20)
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    copies = [copy.deepcopy(fast), torch.load(file, weights_only=False)]
    with torch.no_grad():
        expected = fast(x)
        for each in copies:
            torch.testing.assert_close(each(x), expected, rtol=0, atol=0)
    assert expected.min() == 0
    assert len(calls) == 3


@needs_rates
def test_gradients_in_evaluation_are_those_of_the_plain_convolution(calls: list[str]) -> None:
    plain = convolution(48, 64)
    fast = WinogradConv2d.from_conv(copy.deepcopy(plain), relu=True)
    x = picture(2, 48, 24, 24)
    found = []
    for network in (nn.Sequential(plain, nn.ReLU()), fast):
        given = x.clone().requires_grad_()
        network(given).square().sum().backward()
        found.append([given.grad, *(p.grad for p in network.parameters())])
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert calls == ["native"]


def test_in_training_and_for_other_dtypes_it_is_the_plain_convolution(calls: list[str]) -> None:
    plain, x = convolution(), picture(1, 64, 20, 20)
    fast = WinogradConv2d.from_conv(plain)
    torch.testing.assert_close(fast.train()(x), plain(x), rtol=0, atol=0)
    fast.eval().double()
    torch.testing.assert_close(fast(x.double()), plain.double()(x.double()), rtol=0, atol=0)
    assert not calls


def test_where_it_would_be_slower_it_is_the_plain_convolution(calls: list[str]) -> None:
    plain = convolution(3, 8)
    for x in (picture(1, 3, 30, 30), picture(3, 30, 30), picture(0, 3, 5, 5)):
        y = WinogradConv2d.from_conv(plain)(x)
        torch.testing.assert_close(y, plain(x), rtol=0, atol=0)
    assert not calls


@needs_rates
def test_it_compiles_whole_and_the_operator_keeps_its_promises() -> None:
    fast, x = WinogradConv2d.from_conv(convolution()), picture(1, 64, 20, 20)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), fast(x), rtol=0, atol=0)
    arguments = (x, fast.weight, fast.bias, fast.filters, 1, [1, 1], True)
    torch.library.opcheck(
        torch.ops.thinmaps.winograd_conv2d.default,
        arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kernel_size": 5}, r"kernel_size \(3, 3\), got \(5, 5\)"),
        ({"stride": 2}, r"stride \(1, 1\), got \(2, 2\)"),
        ({"dilation": 2}, r"dilation \(1, 1\), got \(2, 2\)"),
        ({"groups": 4}, "groups 1, got 4"),
        ({"padding": 1, "padding_mode": "reflect"}, "padding_mode zeros, got reflect"),
    ],
)
def test_another_convolution_is_refused_in_one_sentence(
    options: dict[str, object], reason: str
) -> None:
    other = nn.Conv2d(8, 8, **{"kernel_size": 3, **options})
    with pytest.raises(BadArgument, match=f"needs {reason}: keep the nn.Conv2d"):
        WinogradConv2d.from_conv(other)


class Residual(nn.Module):
    """A network with convolutions of every kind, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU())
        self.body = nn.Sequential(convolution(), nn.ReLU(), convolution())
        self.down = nn.Conv2d(64, 64, 3, 2, 1)
        self.shared = convolution()
        self.hooked = convolution()
        self.hooked.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.body(x))
        return self.hooked(self.down(self.shared(self.shared(x))))


@needs_rates
def test_accelerate_replaces_what_pays_and_says_what() -> None:
    torch.manual_seed(0)
    model, x = Residual().eval(), picture(1, 3, 40, 40)
    with torch.no_grad():
        expected = model(x)
        replaced = accelerate(model, x, fuse_relu=True)
        assert_close(model(x), expected)
    assert [(each.name, each.relu) for each in replaced] == [
        ("body.0", True),
        ("body.2", False),
        ("shared", False),
    ]
    assert all(0 < each.predicted_ratio < 1 for each in replaced)
    assert type(model.body[1]) is nn.Identity
    assert type(model.stem[1]) is nn.ReLU
    assert not accelerate(model, x)  # nothing is left


def test_accelerate_refuses_what_it_cannot_do() -> None:
    x = picture(1, 64, 20, 20)
    with pytest.raises(BadArgument, match=r"in evaluation mode: call model\.eval\(\) first"):
        accelerate(nn.Sequential(convolution()).train(), x)
    with pytest.raises(BadArgument, match=r"inside a module, got one: WinogradConv2d\.from_conv"):
        accelerate(convolution(), x)


def test_without_torch_the_rest_of_the_room_works_and_says_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import importlib.util as u; found = u.find_spec\n"
        "from thinmaps import winograd\n"
        "winograd.find_spec = lambda name: None if name == 'torch' else found(name)\n"
        "winograd.derive(2, 3)\n"
        "try: winograd.accelerate\n"
        "except ImportError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "thinmaps.winograd.accelerate needs torch" in done.stdout
