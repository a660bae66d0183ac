"""Make the next step of a stack: its batch, its losses and gradients, its update.

A step is *captured* (see ``lrlab.engine.capture``) if its network, its loss and its optimizer allow
it. Then it costs little more than its kernels. If they do not, or if one bit would differ, it is
*plain*: through vmap, autograd and the optimizer's own code at each step.

``choosing`` makes the step of a stack; ``protocol`` defines its methods.
"""
