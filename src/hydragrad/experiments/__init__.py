"""Everything that has a name on the command line: data, model, recipe, saved scores.

settings           what a run was trained with, as its manifest saves it
recipes            how the data sets known by name are trained
text_recipes       how the texts known by name are trained
backwards          wrong samples planted in a text
defaults           what a training takes where the command line says nothing
experiment         data, loss and fresh starts, in one value
by_name            the experiment of a data set and a model known by name
text_by_name       the experiment of a text and a model known by name
own_function       the experiment of a user's `module:function`
elsewhere          a model trained elsewhere, with what such a function returns
named_query        a query as it is typed on the command line
from_settings      the experiment of settings, or of a run directory
training           train and record an experiment
seeds              runs with other seeds, and scores averaged over them
saved_scores       the scores of a run, loaded where they are saved
score_files        scores of any library, in files
clean_and_retrain  remove or relabel suspects, and train again
run_report         the report of everything in a run directory
"""
