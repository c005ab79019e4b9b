"""One reading of time, for every time that a user gives.

Bar files, label files, recipes and options all come through here, so the same text is the same
moment everywhere. What is not understood is refused: nothing is guessed, nothing is moved.

`reader` (`TimeReader`, `read_times`, `read_time`) decides once for a whole column how it is to be
read; `numbers` knows epochs, dates written as digits and counts of days; `formats` knows texts.
"""

from moola.times.numbers import EPOCH_UNITS, epoch_unit_names
from moola.times.reader import TimeReader, read_time, read_times

__all__ = ["EPOCH_UNITS", "TimeReader", "epoch_unit_names", "read_time", "read_times"]
