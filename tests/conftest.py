"""One thread: the tests are many and small, and answers are promised for a fixed number of threads."""

import torch

torch.set_num_threads(1)
