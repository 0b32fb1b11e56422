"""The web page: the files beside this one, served at / where there is an index.html."""
