"""The paper's tables and figures, and public protocols: `python -m studies NAME`, from a checkout of the repository.

A study is one flat file: its measurement and its command. It saves what it measures row by row, so that it resumes.

figure1             time of a step against the number of tracked samples
extremes            the paper's Tables 1 and 2
extremes_tables     table1 and table2: the extremes as tables and pictures
table4              label noise: rankings, and training again without what ranks first
damping             the damping of influence functions in table4
weights             the weights of the default ranking of suspects
accuracy            test accuracy of the paper's settings
label_errors        label-errors: wrong labels in a published test set
targets             wrong values, several labels, pixels and tokens
groups              how many samples of ten groups of suspects are wrong
trust               predicted against actual removals on five kinds of network
error               what dropping the curvature costs along a run
estimators          which estimator predicts removals on runs that are not smooth
convergence         convergence: after how many runs a ranking of samples converges
hara                single removals, the protocol of SGD-influence
dattri              random halves and removals on dattri's settings
bae                 random halves on SOURCE's setting
adam                networks trained with AdamW, with and without smoothing of the derivative
libraries           scores of several libraries against the same retrainings
offset              why predictions and removals differ by an offset, and what removes it
rounding            what rounding of other machines does to a replay, and how far faults are beyond it

What they share:

networks            five kinds of network
noise               what is made wrong in a training set
cifar10n            labels that people gave to CIFAR-10
checked_labels      test labels that people checked
noisy_run           one noisy training set and its recorded run
ranking             the default ranking of suspects, next to every signal in it
rankings            how suspect labels are, by several methods
baselines           confident learning and TracIn
other_libraries     score matrices of captum, dattri and traker
removals            one run and its real removals
estimates           contributions of one run by several estimators
estimator_rows      rows, summary and tables of the study of estimators
adam_runs           networks trained with AdamW, and their real removals
adam_estimators     what predicts these removals
subsets             answers of networks trained on random subsets
many_networks       small networks of one kind trained at once
rows                rows and arrays in files
number_lists        lists of numbers on a command line
growth_figure       the picture of figure1
convergence_figure  the picture of convergence
"""
