"""Suspects in the tools in which people mend labels, and what was decided there.

exporting     the public function that writes suspects for a tool
exported      what is written of each suspect, whatever the tool
importing     the public function that reads decisions; the format is found from the content
report_marks  marks that the report saved
label_names   labels as numbers and as names
csv_table     a table for spreadsheets and scripts; issues of cleanlab
label_studio  tasks with predictions, a labelling config; annotations
fiftyone      a FiftyOneDataset on disk, with pictures
cleanlab      an issue type of its Datalab; its findings as a ranking
"""

from hydragrad.labelling.exporting import export_suspects as export_suspects
from hydragrad.labelling.importing import import_labels as import_labels
