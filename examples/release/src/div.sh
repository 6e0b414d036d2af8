# div
div() {
  echo $(($1 / $2))
}
