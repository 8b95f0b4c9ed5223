"""What a run keeps comes back to the bit, whatever it was."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plica.runs.encode import pack, unpack
from plica.runs.points import moved, point_tensors, with_unmoved

PIXELS = st.lists(st.integers(0, 255), min_size=4, max_size=4)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6) | PIXELS.map(lambda row: [k / 255 for k in row]))
def test_images_come_back_to_the_bit(values):
    x = torch.tensor([values])
    assert torch.equal(unpack(pack(x)), x)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(PIXELS, st.booleans()), min_size=1, max_size=6), st.booleans())
def test_points_that_were_left_out_are_put_back_in_their_order(images, parametric):
    x = torch.tensor([[k / 255 for k in row] for row, _ in images])
    x_adv = torch.where(torch.tensor([[moves] for _, moves in images]), 1 - x, x)
    theta = torch.arange(len(x)).float()[:, None] if parametric else None
    rows, ids = moved(x, x_adv), 7 * torch.arange(len(x))
    kept = point_tensors(x_adv[rows], None if theta is None else theta[rows], ids[rows])
    points = with_unmoved(kept, ids[~rows], {"id": ids, "x": pack(x)})
    assert torch.equal(points["id"], ids)
    assert torch.equal(points["x_adv"], x_adv)
    if theta is not None:
        assert torch.equal(points["theta"][rows], theta[rows])
        assert points["theta"][~rows].isnan().all()
