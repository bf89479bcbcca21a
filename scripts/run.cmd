@echo off
rem Runs mprelay in an environment of its own, on Windows. Arguments go to mprelay. Without arguments it shows
rem what mprelay does: it runs a small web server on this machine, and a relay to it on 127.0.0.1:8080, until
rem Ctrl-C. Needs Python 3.13 or later; PYTHON chooses one, by the path of its python.exe.
rem
rem Arguments stand outside parentheses and not behind `call`, both of which would change them.
setlocal enableextensions disabledelayedexpansion
set "found="
if defined PYTHON set found="%PYTHON:"=%"
if not defined found call :try py -3
if not defined found call :try python
if not defined found call :try python3
if not defined found echo mprelay needs Python 3.13 or later; set PYTHON to its python.exe>&2
if not defined found exit /b 1
%found% "%~dp0environment.py"
if not %errorlevel%==0 exit /b 1
if [%1]==[] goto demo
"%~dp0..\.venv\Scripts\mprelay.exe" %*
exit /b %errorlevel%

:demo
"%~dp0..\.venv\Scripts\python.exe" "%~dp0demo.py"
exit /b %errorlevel%

:try
%* -c "import sys; sys.exit(sys.version_info < (3, 13))" >nul 2>nul
if %errorlevel%==0 set "found=%*"
exit /b 0
