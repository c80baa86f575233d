"""Judges: Hounsfield volumes in, calibrated findings out; knows nothing of DICOM."""
