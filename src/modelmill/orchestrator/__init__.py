"""The room that knows all the machines: it takes a project from rows to answers.

`project` opens what the data scientist and the platform declared; `training` goes from rows to a registered
version; `upping` goes on to a release and a running node; `checking` tries one segment without recording
anything; `answering` predicts. Nothing below this room calls it.
"""
