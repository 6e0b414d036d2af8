# sub
sub() {
  echo $(($1 - $2))
}
