"""Understands DICOM bytes and data sets; no sockets, no SQL, no torch."""
