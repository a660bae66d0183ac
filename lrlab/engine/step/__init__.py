"""The next step of a stack: its batch, its losses and gradients, its update.

A step is *captured* (see ``lrlab.engine.capture``) where its network, its loss and its optimizer
allow it, and then costs little more than its kernels. Where they do not, or where one bit would
differ, it is *plain*: through vmap, autograd and the optimizer's own code at each step.

``choosing`` makes the step of a stack, ``protocol`` says what it can do.
"""
