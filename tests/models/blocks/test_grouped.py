"""One convolution with groups is the same as to split the channels, convolve each group and concatenate."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.blocks.grouped import GroupedConv  # noqa: E402
from models.blocks.shuffle import channel_shuffle  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("groups", [1, 2, 3, 6, 12])
@pytest.mark.parametrize(("stride", "kernel_size"), [(1, 3), (2, 3), (2, 5)])
def test_grouped_equals_split_convolve_concatenate(groups: int, stride: int, kernel_size: int) -> None:
    torch.manual_seed(0)
    block = GroupedConv(12, 24, kernel_size, groups=groups, stride=stride).eval()
    block.bn.running_mean.normal_()
    block.bn.running_var.uniform_(0.5, 2)
    image = torch.randn(2, 12, 9, 10)

    parts = []
    for part, weight in zip(image.chunk(groups, 1), block.conv.weight.chunk(groups, 0), strict=True):
        own = torch.nn.Conv2d(
            12 // groups, 24 // groups, kernel_size, stride=stride, padding=kernel_size // 2, bias=False
        )
        own.load_state_dict({"weight": weight})
        parts.append(own(part))
    assert len(parts) == groups
    expected = torch.cat(parts, 1)

    assert isinstance(block.conv, torch.nn.Conv2d)
    assert expected.std() > 0.1
    assert torch.allclose(block.conv(image), expected, atol=1e-5)
    assert torch.allclose(block(image), block.act(block.bn(expected)), atol=1e-5)


def test_groups_are_independent_until_shuffled() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 8, 5, 5)
    other = image.clone()
    other[:, :4] += 1
    for shuffle, second in ((False, [False, False]), (True, [True, True])):
        first = GroupedConv(8, 8, groups=2, shuffle=shuffle, activation=None).eval()
        then = GroupedConv(8, 8, groups=2, activation=None).eval()
        changed = (then(first(image)) != then(first(other))).any(3).any(2)[0]
        assert changed[:4].any()
        assert changed[4:].any() == second[0]


def test_channels_are_interleaved() -> None:
    image = torch.arange(6.0).reshape(1, 6, 1, 1).expand(2, 6, 3, 4)
    assert channel_shuffle(image, 2)[0, :, 0, 0].tolist() == [0, 3, 1, 4, 2, 5]
    assert channel_shuffle(image, 3)[1, :, 2, 3].tolist() == [0, 2, 4, 1, 3, 5]
    assert torch.equal(channel_shuffle(channel_shuffle(image, 2), 3), image)
