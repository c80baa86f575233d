"""ich-triage: a DICOM node that puts head CTs with a suspected intracranial hemorrhage first in the worklist."""

__version__ = "0.1.0"
