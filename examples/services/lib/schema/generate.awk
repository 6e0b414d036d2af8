# A shell function that reads one record into variables named as its fields.
{ names = names " " $1 }
END { print "read_record() { read -r" names "; }" }
