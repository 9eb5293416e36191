"""This module is found before the installed package, and pretends that it is not installed.

jsonschema imports rfc3987_syntax if it can, for international addresses, which no test needs. That
takes two seconds in each process: Jupyter servers, nbconvert, papermill.
"""

raise ImportError("left out of tests, as importing it takes two seconds")
