"""From a snapshot to new versions: plan, fit, test, pack, record.

`plan` says what is to be built and why; in the worker, `segment` takes one segment through its stages and `fitting` a
chunk of them, which becomes a pack and rows; `builder` hands out chunks and records each as one transaction; `report`
groups what failed by its cause. It may import `release` and the rooms below it, and neither `serving` nor anything above.
"""
