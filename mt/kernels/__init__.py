"""Operations of the model that plain PyTorch computes slowly on a CPU.

Each module of an operation, except `cross_entropy`, has two versions side by side:

- `reference`: plain PyTorch, for every device and for torch.compile;
- `fast`: for a CPU, with a backward pass written by hand where that pays off;

and a function with the name of the operation, which the model calls. That function takes the fast
version for a tensor on a CPU and the reference otherwise (`mt.kernels.dispatch`). The tests compare
the two versions, outputs and gradients, and run the whole model with both. `cross_entropy` has one
version for all devices; its `reference` is for tests only.
"""
