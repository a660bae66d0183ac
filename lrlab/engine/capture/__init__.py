"""Capture work on tensors once, as a flat list of operations, and repeat it without overhead.

A training step of a small network spends most of its time in Python, in vmap and in autograd. These
decide the same way at each step: the same operations reach the kernels, in the same order. So one
step is watched below autograd and vmap, where only these operations are left. A *program* repeats
them on the same memory. Views are taken once, constants are computed once, and each result is
written where it was before. The kernels are those that ran while it was watched, so a program gives
the same bits. The caller checks that it does.

On a GPU a program is captured a second time, as a CUDA graph, which costs one launch.

``capturing`` is the way in. ``operations`` are recorded, ``builder`` decides where each
result is written, and ``calls`` finds the call for each operation. A ``program`` repeats them.
"""
