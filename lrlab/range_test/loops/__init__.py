"""Take what an own training loop has: its loader, its loss of (model, batch), its optimizer.

``source`` reads a loader without moving it, ``model_batch`` makes such a loss a network that lanes
can train, and ``instance`` reads the settings of an optimizer that exists.

May be imported by ``range_test``.
"""
