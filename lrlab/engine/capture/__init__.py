"""Work on tensors, captured once as a flat list of operations, to be repeated without overhead.

A training step in PyTorch spends most of its time on small networks in Python, in vmap and in
autograd. All of that decides the same way at each step: the operations that reach the kernels are
the same ones, in the same order. So one step is watched below autograd and vmap, where only these
operations are left, and a *program* repeats them on the same memory: views are taken once, what
depends on nothing that changes is computed once, and each result is written where it was before.
The kernels are those that ran while it was watched, so a program gives the same bits; the caller
checks that it does.

On a GPU a program is captured a second time, as a CUDA graph, which costs one launch.

``capturing`` is the way in. ``watching`` records ``operations``, ``builder`` decides where each
result is written, ``calls`` finds the call for each operation, and a ``program`` repeats them.
"""
