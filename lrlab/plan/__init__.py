"""From a composed config to a run spec, and from a spec to the objects that it names."""
