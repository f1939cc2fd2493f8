"""The report: scores and their run as one HTML page that needs nothing else.

report       the public function
content      run and scores as plain data
subject      what the page is about: a recorded run, or a model trained elsewhere
listing      all scored samples, the most suspect first
predictions  predictions of the trained model on samples
over_time    contributions of every epoch
explaining   which training samples moved which predictions, from both ends
comparisons  predicted against actual changes
verdict      conclusions from the evidence
facts        facts about the run
charts       the numbers behind the page's charts
wording      numbers as text
labels       names of labels
targets      targets that are more than one class
grouped      groups of suspects
pairs        near duplicates
tokenized    sequences of tokens as texts, by the user's tokenizer
tokens       texts whose parts are shown with their contributions
rendering    a sample as picture, text or values
gallery      the samples that are shown
sheets       many small pictures in one image
packing      columns of numbers as base64
page         plain data to HTML; the page's own script and style are in browser/
"""

from hydragrad.reports.report import report as report
