"""From raw files to a folder that `minillm train` takes: cleaned, judged, split, in token shards.

Every step works on parts whose borders depend on the text alone, so the result is the same for any
number of workers, and a step that was cut off goes on with the first part that is missing.
"""
