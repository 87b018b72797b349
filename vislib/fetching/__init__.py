"""Image links over HTTP(S), each fetched once for all runs and within bounds (OBELICS, section 3).

`links` knows what came and what failed, `fetcher` asks for the rest, `hosts` is each host's rate
limiter and circuit breaker, `addresses` lets connections go to the public network alone,
`connections` asks and reads replies as browsers do.
"""

DATA_VERSION = 1  # raised when a mended fault changes what comes out of this room
