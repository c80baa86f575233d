"""The error tree: who is stopped by what; it does not log, map or handle anything.

    TriageError
    ├── ConfigError                 the start is refused (exit code 2)
    │   ├── PackError               a model pack is missing, altered or inconsistent
    │   └── DataError               training data, a cache, a recipe or a run cannot be used as they are
    ├── InstanceError               one received instance is refused: a failure status goes to its sender
    │   ├── UnreadableInstance      not a DICOM data set, or a mandatory UID missing or invalid
    │   ├── MismatchedInstance      data set and C-STORE command disagree, or no image of its class
    │   ├── UnsupportedInstance     a SOP class this node does not take
    │   ├── ConflictingInstance     the same SOP Instance UID with other content
    │   └── NoResources             disk reserve reached, database locked, shutting down: the sender may retry
    ├── SliceError                  one slice is set aside with its reason, the others go on
    ├── StudyError                  one study is not analysed: recorded, reported, not retried
    ├── DeliveryError               one delivery failed: recorded, retried
    └── TrainingError               a training run stopped; its last good checkpoint stands (exit code 1)

A message names the thing and the value that is wrong, never the patient.
"""


class TriageError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(TriageError):
    """The configuration cannot be served; the message names the key and what to do."""


class PackError(ConfigError):
    """A model pack is missing, altered or inconsistent."""


class DataError(ConfigError):
    """Training data, a cache, a recipe or a run cannot be used as they are; the message says what to do."""


class InstanceError(TriageError):
    """One received instance is refused; its sender gets a failure status."""


class UnreadableInstance(InstanceError):
    """The bytes are no DICOM data set, or a mandatory UID is missing or invalid."""


class MismatchedInstance(InstanceError):
    """Data set and C-STORE command disagree, or the data set is no image of its SOP class."""


class UnsupportedInstance(InstanceError):
    """The SOP class is not one that this node takes."""


class ConflictingInstance(InstanceError):
    """The SOP Instance UID is known with other content; the first one is kept."""


class NoResources(InstanceError):
    """No room, no database or no time now; the sender may try again later."""


class SliceError(TriageError):
    """One slice cannot be used; it is set aside with this reason and the others go on."""


class StudyError(TriageError):
    """A study is not analysed; the message is the reason that is stored and reported."""


class DeliveryError(TriageError):
    """One object was not accepted by one destination; it is tried again."""


class TrainingError(TriageError):
    """A training run stopped; its last good checkpoint stands and the message says how to go on."""
