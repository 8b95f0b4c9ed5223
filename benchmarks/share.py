"""How much of an evaluation's time is spent in the networks: forward and backward runs of every method.

    PLICA_DATA=folder python benchmarks/share.py benchmarks/evaluate.yaml --data cifar10.npz --n 50

CPU time of one thread, so that other work on the machine does not count. A backward run is timed from the call of
autograd on, the loss above the logits included.
"""

import argparse
import tempfile
import time
from collections import defaultdict

import torch

import plica
from plica.evaluation import read_plan, worker


class Clock:
    """Adds up the CPU time inside of what it wraps, nested calls once, on the account of `name`."""

    def __init__(self):
        self.inside, self.begin, self.name, self.spent = 0, 0.0, "", defaultdict(float)

    def enter(self):
        if not self.inside:
            self.begin = time.process_time()
        self.inside += 1

    def leave(self):
        self.inside -= 1
        if not self.inside:
            self.spent[self.name] += time.process_time() - self.begin

    def wrap(self, function):
        def timed(*given, **more):
            self.enter()
            try:
                return function(*given, **more)
            finally:
                self.leave()

        return timed


def main():
    parser = argparse.ArgumentParser(description="Share of the time that is spent in the networks, by method.")
    parser.add_argument("plan")
    parser.add_argument("--data", help="instead of the plan's")
    parser.add_argument("--n", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(1)
    clock, whole = Clock(), defaultdict(float)
    torch.autograd.grad = clock.wrap(torch.autograd.grad)
    torch.Tensor.backward = clock.wrap(torch.Tensor.backward)
    load, answer = worker.load_model, worker.Worker.answer

    def loaded(*spec):
        model = load(*spec)
        model.register_forward_pre_hook(lambda *_: clock.enter())  # hooks go along with the judge's copy in float64
        model.register_forward_hook(lambda *_: clock.leave())
        return model

    def answered(self, work):
        begin, clock.name = time.process_time(), work.job.task.method
        part = answer(self, work)
        whole[clock.name] += time.process_time() - begin
        return part

    worker.load_model, worker.Worker.answer = loaded, answered
    more = {"data.n": given.n} | ({"data.path": given.data} if given.data else {})
    plan = read_plan(given.plan, **more)
    with tempfile.TemporaryDirectory() as out:
        begin = time.process_time()
        plica.evaluate(plan, out)
        total = time.process_time() - begin
    print("| method | seconds | in the networks |\n|---|---:|---:|")
    for name, seconds in whole.items():
        print(f"| {name} | {seconds:.1f} | {clock.spent[name] / seconds:.0%} |")
    inside = sum(clock.spent[name] for name in whole)
    print(f"| all methods | {sum(whole.values()):.1f} | {inside / sum(whole.values()):.0%} |")
    print(f"| the whole run | {total:.1f} | {inside / total:.0%} |")


if __name__ == "__main__":
    main()
