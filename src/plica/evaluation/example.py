"""The plan that `plica plan` writes to start from; a test reads it."""

EXAMPLE = """\
# An evaluation for `plica evaluate plan.yaml --out DIR`. Everything below `methods` may be left out.

models: # file.py:factory or package.module:factory, as for `plica radius --model`; paths from the current folder
  - model: plica.demo:resnet18
    # weights: net.safetensors
    # name: resnet18               # in tables; by default the factory's name
    # trust: true                  # for a model that is a program: TorchScript, torch.export

data:
  path: cifar10.npz # x (uint8, or floats in [0, 1]) and y
  # n: 1000                        # the first n; all of them if left out
  # sample: balanced               # n images drawn with the seed, equally from each class; or random
  # seed: 0
  # indices: 0-99,200,5            # or these rows; a list, or a text file of such

questions:
  - ask: min-radius # how far is the nearest input that is misclassified?
    metric: [l2, linf]
  - ask: max-loss # is there one within the radius?
    metric: linf
    radius: [2/255, 8/255]
    # loss: margin                 # or ce, dlr
    # goal: deviates=0.1           # what counts as a success, if not another class: any-label, pixels=0.25, ...
    # levels: 256                  # restrict results to this many levels between the bounds: 256 for 8-bit images
    # through: flow                # a perturbation other than x + delta; metric: theta is its own distance
    # methods: [autoattack+plica]  # if they differ from those below

methods: # of `plica radius --help`, or sets with standard budgets: autoattack, autoattack+plica, autoattack-rand
  - auto
  - name: pwcf
    gradients: 200 # budget per image

gradients: 100 # budget per image of methods without their own
# draws: 16                        # for models with random outputs: the mean over so many draws is attacked
# precision: bf16                 # searches run the models under autocast; the judge uses their own precision
individual: false # for max-loss: true lets every method attack every image, false only those that are not broken yet
seed: 0
device: cpu # cuda, cuda:1, mps; cuda:0,cuda:1 or all: one process for each GPU
bounds: [0, 1] # of pixels; or an .npz with low, high and mask (what may change), for features of different ranges
# certify: {seconds: 10}         # also prove lower bounds, for so long per image; linf, l2 and l1
chunk: 128 # images that are attacked and stored together
# batch_size: 64                   # searches at the same time; halved automatically if memory runs out
# threads: 1
"""
