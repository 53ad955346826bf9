"""What the package is measured against: the published algorithm, other libraries, and the time of starting it."""
