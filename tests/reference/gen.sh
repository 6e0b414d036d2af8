#!/bin/sh
echo "#define VERSION 1"
