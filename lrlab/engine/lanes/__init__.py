"""Lanes: networks of one architecture on stacked parameters, the lane axis always first.

A lane must have the bits that it has alone. Most networks keep them in a stack, some do not (a
convolution becomes a grouped one, whose sums run in another order), so ``Lanes.settle`` compares
each new stack with its lanes alone, and where one bit differs the lanes train one at a time. They
do too where that is faster.

``stacking`` makes a stack, ``lane_stack`` is the stack with its tensors (laid out by ``packing``),
``passes`` makes its products block by block, and ``ways`` chooses which lanes share a block.
"""
