"""Values that are far from what their series usually has."""
