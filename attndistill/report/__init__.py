"""Results to a report: reads the files other stages wrote, and computes no accuracy of its own.

`attndistill.report.build.build_report` is the way in. Nothing heavy is imported here.
"""
