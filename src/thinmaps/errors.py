# SPDX-License-Identifier: Apache-2.0
"""Every error that thinmaps raises on purpose.

    ThinmapsError
      BadArgument     (ValueError)   an option or argument outside what it may be
      BadShape        (ValueError)   an array whose dtype, rank or sizes do not fit
      BadModel        (ValueError)   a network file that cannot be read or does not make sense
        UnsupportedOperator          ... because of operators we do not have, all named at once
      BadFile         (ValueError)   a .thin file that is damaged or hostile
      BadPicture      (ValueError)   a picture that cannot be opened
      BadData         (ValueError)   a label, annotation or calibration set that cannot be used
      CorruptPayload  (ValueError)   encoded bytes that no encoder has written
      UnknownCodec    (LookupError)  a codec id that is not installed
      PlanImpossible  (ValueError)   no schedule or arena satisfies what was asked
      TrainingDiverged (ValueError)  a loss is NaN or infinite
      MissingExtra    (ImportError)  an optional dependency is needed and absent

A message says who complains, what was needed, what came, and the cure where one is known. The
command line turns each of these into one sentence and exit code 2; anything else is our bug.
"""


class ThinmapsError(Exception):
    """Root of the tree: catch this to catch everything thinmaps refuses."""


class BadArgument(ThinmapsError, ValueError):
    """An option or argument lies outside what it may be."""


class BadShape(ThinmapsError, ValueError):
    """An array's dtype, rank or sizes do not fit."""


class BadModel(ThinmapsError, ValueError):
    """A network file cannot be read or does not make sense."""


class UnsupportedOperator(BadModel):
    """A network uses operators that thinmaps does not have; the message names all of them."""


class BadFile(ThinmapsError, ValueError):
    """A .thin file is damaged, hostile, or written by another format version."""


class BadPicture(ThinmapsError, ValueError):
    """A picture cannot be opened or decoded."""


class BadData(ThinmapsError, ValueError):
    """A label file, annotation or calibration set cannot be used."""


class CorruptPayload(ThinmapsError, ValueError):
    """Encoded bytes that no encoder has written."""


class UnknownCodec(ThinmapsError, LookupError):
    """A codec id that is not installed."""


class PlanImpossible(ThinmapsError, ValueError):
    """No schedule or arena satisfies what was asked."""


class TrainingDiverged(ThinmapsError, ValueError):
    """A loss or its gradient is NaN or infinite; the message names the step."""


class MissingExtra(ThinmapsError, ImportError):
    """An optional dependency is needed and absent; the message names the extra to install."""
