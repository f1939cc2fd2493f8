"""The report: scores and their run as one HTML page that needs nothing else.

report       the public function
content      run and scores to plain data
listing      all scored samples, the most suspect first
predictions  what the trained model says of samples
over_time    what every epoch added
explaining   which training samples moved which predictions, and the other way round
comparisons  predicted against actual changes
verdict      what to make of the evidence; facts about the run, charts, wording of numbers, names of labels
rendering    a sample as picture, text or values; gallery of those shown; sheets of small pictures; packing of columns
page         plain data to HTML; the page's own script and style are in browser/
"""

from hydragrad.report.report import report as report
