"""When two runs are the same: in all but the seconds they took."""

import torch


def assert_same(one, other):
    """Samples, points, tasks and summary."""
    samples, samples2 = (run.samples.drop_columns(["seconds"]).to_pydict() for run in (one, other))
    assert samples.keys() == samples2.keys()
    for name, column in samples.items():
        assert [repr(value) for value in column] == [repr(value) for value in samples2[name]], name
    for task in one.tasks:
        points, points2 = (torch.cat([x_adv for _, x_adv in run.points(task)]) for run in (one, other))
        assert torch.equal(points, points2), task.name
    assert one.tasks == other.tasks
    assert _timeless(one.summary) == _timeless(other.summary)


def _timeless(value):
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key != "seconds"}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value
