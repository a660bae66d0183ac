"""Run networks of one architecture as lanes on stacked parameters; the lane axis is the first.

A lane must have the same bits as alone. Most networks keep them in a stack, but some do not: a
convolution becomes a grouped one, whose sums run in another order. So ``Lanes.settle`` compares
each new stack with its lanes alone. If one bit differs, the lanes train one at a time. They also do
if that is faster.

``stacking`` makes a stack. ``lane_stack`` is the stack with its tensors, which ``packing`` lays
out. ``passes`` makes its products block by block, and ``ways`` chooses which lanes share a block.
"""
