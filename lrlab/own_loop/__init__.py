"""Measure the learning rate inside a training loop of the user's own: ``lrlab.Probe``.

``probe`` is what the user meets. ``measuring`` evaluates the loss along one update, ``keeping``
puts back what that changed, ``branching`` makes the branch test, ``folders`` writes lrlab's own
records, and ``words`` says what was found.
"""
