"""The report: scores and their run as one HTML page that needs nothing else.

report    the public function
content   run and scores to plain data
samples   samples to cards, verdict what to make of the evidence, facts about the run, wording of numbers
page      plain data to HTML
"""

from hydragrad.report.report import report as report
