"""Classifiers of other libraries. Each library is optional, and imported when it is asked for."""
