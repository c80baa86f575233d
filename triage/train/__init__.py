"""Trains, measures and exports models: labels and slices in, a model pack out; serves no study."""
