"""Arrays to pictures: attention panels (supplementary Figs 9-11), accuracies (Fig 6) and curves (Fig 7).

Pure functions: no file is read, no global plotting state is touched, and equal input gives equal bytes.
"""
