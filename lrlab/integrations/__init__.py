"""``lrlab.Probe`` as a callback of other training libraries, which are imported only here."""
