"""The verbs of the control plane, each declared once: what it is asked, what it answers, which function does it.

`verbs` is the table, `Mill` is the same for Python programs, `doctor` looks at the machine around a project. The
command line is made from the table. May import every room below, but imports the machines only when a verb is called.
"""
