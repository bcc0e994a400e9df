"""Request traces: what arrived when, in bins of ten seconds, and the files and series that they are read from.

`read` takes a file of any known layout; `from_prometheus` takes range queries that somebody else has made. What cannot
be trusted as demand is refused with `BadTrace`, whose words say where it stands and what to do.
"""

from spillway.simulate.traces.prometheus import Samples, from_prometheus
from spillway.simulate.traces.reading import read
from spillway.simulate.traces.trace import Arrivals, BadTrace, Bools, Floats, Trace, bin_arrivals

__all__ = ["Arrivals", "BadTrace", "Bools", "Floats", "Samples", "Trace", "bin_arrivals", "from_prometheus", "read"]
