"""Every stored answer of a run measured anew, by code that shares nothing with the code that found it."""
