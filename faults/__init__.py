"""Campaigns of accidents: processes killed at random moments, files damaged at random places. `python -m faults`.

toys       tiny runs, and what is done with them: every task resumes what it finds in its folder
processes  tasks in forked processes, which may be killed, hang or crash
kills      a task killed again and again ends at the bits of the undisturbed one
damages    a folder with one damaged file gives the same answer, or a named error
trials     what came of every trial, appended to a file, so that a campaign is resumed; the tally
"""
